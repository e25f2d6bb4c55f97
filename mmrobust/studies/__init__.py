"""Studies: the variants of a recipe, each run whole, some at a time, and what sets them apart.

runs/<recipe's name>/<time>-<id>/
  recipe.yaml       the study as it was written
  study.json        what is compared, how far it has come, and every number of the tables (`mmrobust.studies.folder`)
  report.html       the tables and figures of all variants
  tables/*.csv      the tables; figures/*.svg
  variants/<variant>/     a complete run (see `mmrobust.training.folder`) and output.txt, what its process said
"""

from mmrobust.studies.folder import Study, is_study, open_study
from mmrobust.studies.running import render, run_study, study

__all__ = ["Study", "is_study", "open_study", "render", "run_study", "study"]

"""A recipe come to life: the model, what it learns from, how both are assembled, and the tree that shows them."""

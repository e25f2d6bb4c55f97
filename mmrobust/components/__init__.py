"""The built-in components, a file for each kind; each is registered in `mmrobust.registry.builtins`."""

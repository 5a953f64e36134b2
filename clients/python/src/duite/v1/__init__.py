"""The generated code of duite's API, for what this package does not wrap."""

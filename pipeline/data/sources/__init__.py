"""One module per source of images. Read `registry`; to add a source, write a module and register its name there."""

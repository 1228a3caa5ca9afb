"""One module per source of images. Read `source`, then `registry`, `arrays` and `files`, then any source.

To add a source, write a module that defines `SOURCE`.
"""

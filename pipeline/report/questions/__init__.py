"""One module per kind of question. Read `context` first, then `dispatch`, then any kind."""

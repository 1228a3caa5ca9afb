"""What a run logs, on disk until it is uploaded. Read `journal`, `uploader`, `sender`, then `sync`."""

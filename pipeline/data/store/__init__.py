"""Decoded images on disk: each image file is decoded once, in parallel, into one memory-mapped file.

Read `files` (what is stored per image), `worker` and `decoding` (in parallel, resumable), `image_store` (the finished
store), `manifest` (which files have been seen before), then `loading`, which puts them together.

    $PIPELINE_STATE_DIR/images/
        <key>/                        a finished store; the key covers the files' digests, their order and the geometry
        partial-<source>-<geometry>/  one that is being decoded, or was interrupted
        manifests/<source>.npz        sizes, modification times and digests of a source's files
        locks/<source>.lock           held by the process that decodes the source
"""

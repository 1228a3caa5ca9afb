"""Cache of decoded images: each image file is decoded once, in parallel, into one memory-mapped file per dataset.

Read `files` (the record per image), `worker` and `decoding` (parallel, resumable), `image_store` (complete stores),
`manifest` (files that have been decoded), then `loading`, which combines them.

    $PIPELINE_STATE_DIR/images/
        <key>/                        a complete store; the key covers the files' digests, their order and the geometry
        partial-<source>-<geometry>/  an incomplete store: decoding is running or was interrupted
        manifests/<source>.npz        sizes, modification times and digests of a source's files
        locks/<source>.lock           held by the process that decodes the source
"""

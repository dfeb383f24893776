"""A store that several machines share: what steps made, under their keys; who is at which. Folder, S3 and the like.

    blobs/ab/<sha256>      a file's bytes, under their hash: twice is the same
    steps/ab/<key>         what a step made: its manifest and its files' hashes; written last, where there is none
    leases/ab/<key>        who makes it now, and a count that goes up while he does
    jobs/ab/<key>          the steps of a whole recipe, once all are there

A step is done when its object in steps/ is there, and not before: whoever finds it finds all the blobs that it names.
No object is ever seen in part. An object that names what is there is never changed, so two that do the same step write
the same blobs, and the first of them names them.
"""

"""What a container in COLD consists of: whether it can become an image at all, and what is in one.

`unsupported` decides beforehand whether a checkpoint that ends the processes brings all of them back; `obstacle` has
the words for it, `snapshot` what is known of a container, `reading` gets that from /proc, `checks` judge it.
`reapplied` sets again what a restore loses and can be set from outside.
"""

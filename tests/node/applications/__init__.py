"""The applications of the compatibility suite: Debian's own, and small programs in the languages that Debian has.

They come as container images of their own, made from a Debian tree of their own, so that the ordinary node stays as
small as it is: ``tree`` (the packages, and what is compiled) and ``images`` (one for each application). What they run
is in the files beside these modules.
"""

"""Becomes start.py where zeropod.pyz unpacks itself: the quick way in, without runpy and zipimport.

The archive's shell header runs it with the name that the archive was called by as its first argument. Python compiles
it anew at every start, so all that can be is elsewhere.
"""

import sys

sys.path.insert(0, __file__.rpartition("/")[0])
del sys.argv[0]
from zeropod.boot import tree_main

tree_main.main()

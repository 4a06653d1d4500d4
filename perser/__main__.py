"""`python -m perser` is `perser`."""

from perser.cli import main

main()

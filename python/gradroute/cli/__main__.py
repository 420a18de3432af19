"""`python -m gradroute.cli`, where the `gradroute` script is not on the path."""

from . import main

main()

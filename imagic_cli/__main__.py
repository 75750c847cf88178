"""`python -m imagic_cli` is `imagic`."""

from imagic_cli.cli import main

main()

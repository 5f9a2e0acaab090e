"""`python -m kdcli` is `kd`."""

from kdcli.main import main

main()

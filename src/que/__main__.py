"""`python -m que` is `que`."""

from que.cli import main

if __name__ == "__main__":
    main()

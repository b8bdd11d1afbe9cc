"""Open the workbench in a browser: python app.py [--port 7860] [--workspace DIR]; the same as `kto app`."""

import sys

from kto_workbench.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["app", *sys.argv[1:]]))

"""``python -m vidllm``: the command line."""

import sys

from vidllm.cli import main

sys.exit(main())

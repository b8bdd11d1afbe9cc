"""Show a folder of this machine in its file manager, where there is a screen to show it on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Thread

OPENERS = {"darwin": "open", "win32": "explorer"}  # everywhere else, what freedesktop.org has agreed on


def has_screen() -> bool:
    """Whether this process could show a window: on a server that is reached over the network, it can't."""
    if sys.platform in OPENERS:
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def open_folder(path: Path) -> bool:
    """Have the file manager show a folder; False where there is no screen or no file manager to ask."""
    opener = shutil.which(OPENERS.get(sys.platform, "xdg-open"))
    if opener is None or not has_screen() or not path.is_dir():
        return False
    try:
        asked = subprocess.Popen(
            [opener, str(path.resolve())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    Thread(target=asked.wait, daemon=True).start()  # whenever it ends, nothing of it shall stay
    return True

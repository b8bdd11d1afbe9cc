"""Presets: settings of the Train tab kept under a name, as YAML files that `kto train` takes, too."""

import re
from pathlib import Path

from kto_workbench.config import KTOConfig, load_config, save_config
from kto_workbench.errors import ConfigError

NAME = re.compile(r"\w[\w \-.]{0,59}")


class Presets:
    """The presets of a workspace."""

    def __init__(self, workspace: str | Path) -> None:
        self.folder = Path(workspace) / "presets"

    def names(self) -> list[str]:
        """What has been saved, in alphabetical order."""
        return sorted(path.stem for path in self.folder.glob("*.yaml"))

    def save(self, name: str, config: KTOConfig) -> str:
        """Keep a config under a name, which may replace an older one. Raises ConfigError."""
        path = self._path(name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_config(config, path)
        except OSError as error:
            raise ConfigError(f"Can't save the preset: {error.strerror}.") from None
        return path.stem

    def load(self, name: str) -> KTOConfig:
        """The config under a name. Raises ConfigError."""
        return load_config(self._path(name))

    def _path(self, name: str | None) -> Path:
        name = " ".join(str(name or "").split())
        if not NAME.fullmatch(name):
            raise ConfigError("A preset's name has 1 to 60 letters, digits, spaces, dots or dashes.")
        return self.folder / f"{name}.yaml"

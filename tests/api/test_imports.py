"""The API process stays light: it starts at once and holds no model."""

import subprocess
import sys


def test_the_api_and_the_engine_never_import_torch() -> None:
    code = (
        "import sys, app.api.server, app.engine.engine\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

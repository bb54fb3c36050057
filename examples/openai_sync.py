"""Write two variations of a picture by OpenAI's SDK: openai_sync.py photo.jpg"""

import base64
import os
import sys
from pathlib import Path

from openai import OpenAI

URL = os.environ.get("VARIATIONS_URL", "http://127.0.0.1:8000")

client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("VARIATIONS_API_KEY", "none"))
answer = client.images.create_variation(
    image=Path(sys.argv[1]),
    n=2,
    response_format="b64_json",
    extra_body={"seed": 7, "num_inference_steps": 10},
)
for i, picture in enumerate(answer.data or []):
    Path(f"openai-{i}.png").write_bytes(base64.b64decode(picture.b64_json or ""))

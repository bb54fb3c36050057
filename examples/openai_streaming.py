"""Write each variation as soon as it is done, by OpenAI's SDK: openai_streaming.py photo.jpg"""

import base64
import os
import sys
from pathlib import Path
from typing import Any

from openai import OpenAI, Stream

URL = os.environ.get("VARIATIONS_URL", "http://127.0.0.1:8000")

client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("VARIATIONS_API_KEY", "none"))
# create_variation has no parameter for it, but the client's post takes it.
events = client.post(
    "/images/variations",
    cast_to=object,
    body={"stream": True, "n": 3},
    files={"image": Path(sys.argv[1]).read_bytes()},
    options={"headers": {"Content-Type": "multipart/form-data"}},
    stream=True,
    stream_cls=Stream[Any],
)
for event in events:
    if event["type"] == "image_edit.completed":
        Path(f"stream-{event['index']}.png").write_bytes(base64.b64decode(event["b64_json"]))

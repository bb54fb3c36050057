#!/bin/sh
# Write a variation of a picture to variation.png:  examples/curl.sh photo.jpg
# --retry waits as long as Retry-After says where the service is busy (429, 503).
exec curl --silent --show-error --fail-with-body --retry 5 \
    --header 'Accept: image/png' --form image=@"$1" --form seed=7 \
    --output variation.png "${VARIATIONS_URL:-http://127.0.0.1:8000}/variations"

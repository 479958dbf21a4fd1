"""Exit status 0 where a URL of this container answers 200: for HEALTHCHECK, without curl.

python health.py http://127.0.0.1:8000/health
"""

import ssl
import sys
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

TIMEOUT_SECONDS = 4.0


def main(url: str) -> int:
    """Exit status for one request, which goes through no proxy; 1 says why on stderr."""
    # The certificate names the server as clients know it, not the loopback address asked here.
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=unverified))
    try:
        with opener.open(url, timeout=TIMEOUT_SECONDS) as response:
            return int(response.status != 200)
    except OSError as error:  # refused, timed out, or a status of 400 and more
        sys.stderr.write(f"{url}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""Puts pip into the virtual environment that runs this, where Python comes without ensurepip.

Debian and Ubuntu keep ensurepip in a package of its own. pip is pure Python: its unpacked wheel
is an installation. It is taken from the index that pip itself would ask.

    python3 -m venv --without-pip .venv
    .venv/bin/python .ci/get_pip.py
"""

import configparser
import hashlib
import html
import io
import os
import re
import sys
import sysconfig
import zipfile
from pathlib import Path
from urllib.parse import urldefrag, urljoin
from urllib.request import urlopen

LINK = re.compile(r'<a\b([^>]*)href="([^"]*/pip-(\d+(?:\.\d+)*)-py3-none-any\.whl[^"]*)"([^>]*)>')


def package_index():
    """The address of the index: pip's environment variable, its settings, or PyPI."""
    settings = configparser.ConfigParser(interpolation=None)
    home = Path.home()
    settings.read(["/etc/pip.conf", home / ".pip/pip.conf", home / ".config/pip/pip.conf"])
    configured = settings.get("global", "index-url", fallback="https://pypi.org/simple")
    return os.environ.get("PIP_INDEX_URL", configured)


def newest_wheel(page):
    """The link of the newest final release that this Python can run, or None."""
    links = []
    for before, link, version, behind in LINK.findall(page):
        attributes = html.unescape(before + behind)
        needed = re.search(r'data-requires-python="[^"]*>=\s*3\.(\d+)', attributes)
        if "data-yanked" in attributes or (needed and int(needed[1]) > sys.version_info.minor):
            continue
        links.append((tuple(map(int, version.split("."))), html.unescape(link)))
    return max(links)[1] if links else None


def main():
    if sys.prefix == sys.base_prefix:
        sys.exit("get_pip.py: not in a virtual environment; run it with .venv/bin/python")
    page_url = f"{package_index().rstrip('/')}/pip/"
    try:
        with urlopen(page_url) as page:
            link = newest_wheel(page.read().decode())
            if link is None:
                sys.exit(f"get_pip.py: {page_url} lists no pip; set PIP_INDEX_URL")
            url, digest = urldefrag(urljoin(page.url, link))
        with urlopen(url) as file:
            wheel = file.read()
    except OSError as error:
        sys.exit(f"get_pip.py: {page_url}: {error}; set PIP_INDEX_URL or install python3-venv")
    kind, _, expected = digest.partition("=")
    if kind == "sha256" and hashlib.sha256(wheel).hexdigest() != expected:
        sys.exit(f"get_pip.py: {url}: damaged on the way (wrong sha256); run it again")
    zipfile.ZipFile(io.BytesIO(wheel)).extractall(sysconfig.get_path("purelib"))


if __name__ == "__main__":
    main()

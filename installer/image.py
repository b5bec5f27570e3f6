"""Builds the node image with docker or buildah, and brings it to where a cluster's nodes find it.

    installer/image.py [kind | k3s | archive | NAME] [OPTION...]

kind loads it into the nodes of a kind cluster, k3s into the K3s of this machine; archive makes build/zeropod-node.tar
for others. NAME is an image's name in a registry: it is pushed there, and build/install becomes a kustomization that
installs it. Without one of these it is only built. Options go to the builder, such as --build-arg BASE=IMAGE.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "docker.io/library/zeropod-node:latest"
"""What `zeropod-node` stands for in the manifests."""
ARCHIVE = ROOT / "build/zeropod-node.tar"
INSTALL = ROOT / "build/install/kustomization.yaml"
OVERLAY = "../../installer/manifests/overlays/default"

LOCAL = ("kind", "k3s", "archive")

_TAG = re.compile(r"(?P<name>.+?)(?::(?P<tag>[\w][\w.-]{0,127}))?")


def main(arguments: list[str]) -> int:
    where = arguments.pop(0) if arguments and not arguments[0].startswith("-") else ""
    builder = next((each for each in ("docker", "buildah") if shutil.which(each)), None)
    if builder is None:
        return _complain("install docker or buildah, which build images")
    if where in ("kind", "k3s") and shutil.which(where) is None:
        return _complain(f"there is no {where} on PATH")
    try:
        name = NAME if where in ("", *LOCAL) else where
        run(builder, "build", "--file", "installer/Containerfile", "--tag", name, *arguments, ".")
        if where in LOCAL:
            archive(builder)
        match where:
            case "":
                print(f"built {name}")
            case "archive":
                print(f"{ARCHIVE.relative_to(ROOT)} is for: ctr -n k8s.io images import")
            case "kind":
                run("kind", "load", "image-archive", str(ARCHIVE))
            case "k3s":
                run("k3s", "ctr", "images", "import", str(ARCHIVE))
            case _:
                run(builder, "push", name)
                INSTALL.parent.mkdir(exist_ok=True)
                INSTALL.write_text(kustomization(name))
                print(f"pushed {name}; kubectl apply -k {INSTALL.parent.relative_to(ROOT)} installs it")
    except subprocess.CalledProcessError as error:
        return _complain(f"{error.cmd[0]} has failed")
    return 0


def archive(builder: str) -> None:
    """Write the image to a file, under the name that the manifests have."""
    ARCHIVE.unlink(missing_ok=True)
    if builder == "docker":
        run("docker", "save", "--output", str(ARCHIVE), NAME)
    else:
        run("buildah", "push", NAME, f"docker-archive:{ARCHIVE}:{NAME}")


def kustomization(name: str) -> str:
    """Return the default overlay with this image, as a kustomization, which may be written in JSON."""
    found = _TAG.fullmatch(name)
    assert found is not None
    image = {"name": "zeropod-node", "newName": found["name"], "newTag": found["tag"] or "latest"}
    return json.dumps({"resources": [OVERLAY], "images": [image]}, indent=2) + "\n"


def run(*command: str) -> None:
    subprocess.run(command, cwd=ROOT, check=True)


def _complain(text: str) -> int:
    sys.stderr.write(f"image: {text}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

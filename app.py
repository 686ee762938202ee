"""Start VCM Studio: `python app.py`, on a laptop or on a Space."""

import argparse
import logging
import os
import sys

# Before Gradio and torch are imported: no reports to anyone, no second web server, and a GPU that can be lent.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("GRADIO_SSR_MODE", "False")

import spaces  # noqa: F401 (on a Space it must come before torch)

from vcm.pipeline import Pipeline
from vcm.ui.app import build_app, launch_options
from vcm.weights.checkpoint import CheckpointError
from vcm.weights.pretrained import EMBEDDED, PUBLISHED


def parse_arguments() -> argparse.Namespace:
    """Read the command line; a Space gives host and port by environment."""
    parser = argparse.ArgumentParser(description="Draw a tumor and get a 3D brain MRI that has it.")
    parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    parser.add_argument("--model", default="mini", help="mini, brainldm, or a folder with the same layout")
    parser.add_argument(
        "--vcm-weights", metavar="FILE|DIR|REPO", help="a VCM in place of the model's own; VCM_WEIGHTS for brainldm"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--share", action="store_true", help="also a public address, through Gradio's tunnel")
    parser.add_argument("--mcp", action="store_true", help="also serve agents (needs the extra gradio[mcp])")
    return parser.parse_args()


def load(arguments: argparse.Namespace) -> tuple[Pipeline, str | None]:
    """Load the model that was asked for; where the published one cannot be had, the embedded one and the reason."""
    try:
        return Pipeline.from_pretrained(arguments.model, arguments.device, vcm_weights=arguments.vcm_weights), None
    except ValueError as error:
        if arguments.model != PUBLISHED or not isinstance(error, CheckpointError):
            sys.stderr.write(f"app.py: {error}\n")
            sys.exit(2)
        logging.getLogger(__name__).warning("%s Starting with %s instead.", error, EMBEDDED)
        return Pipeline.from_pretrained(EMBEDDED, arguments.device), str(error)


def main() -> None:
    """Load the model once and serve it."""
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    pipeline, problem = load(arguments)
    build_app(pipeline, problem=problem).launch(
        server_name=arguments.host,
        server_port=arguments.port,
        share=arguments.share,
        **launch_options(mcp=arguments.mcp),
    )


if __name__ == "__main__":
    main()

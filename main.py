"""Train one system - VQ-f4 autoencoder, ZoomLDM, CDM or ControlNet - from YAML: see ldm/cli/train.py.

python main.py --base configs/zoomldm_brca.yaml [more.yaml] [key=value ...]
python main.py --resume runs/NAME [key=value ...]
"""

from ldm.cli.train import main
from ldm.errors import cli

if __name__ == "__main__":
    cli(main)

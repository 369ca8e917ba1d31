"""Packaging of dpr_jax; the tested versions are in BUILD_NOTES.md."""

import re
from pathlib import Path

from setuptools import find_packages, setup

# What only some commands import; relighting a photo needs none of it.
FILM = ["av>=17"]
APP = [*FILM, "gradio>=6.31"]
DATA = ["google-crc32c>=1.5", "libigl>=2.6.3", "numba>=0.61", "protobuf>=5", "tensorflow-datasets>=4.9.8"]
# Training makes procedural faces where it is given no dataset.
TRAIN = [*DATA, "grain>=0.2.18", "optax>=0.2.8", "orbax-checkpoint>=0.12", "tensorboardX>=2.6.4"]
DOCS = ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.27"]
HUB = ["huggingface-hub>=1.1.3"]
MEDIAPIPE = ["mediapipe>=1.0"]
ONNX = ["onnx>=1.18", "onnxruntime>=1.22"]
RAW = ["rawpy>=0.23"]
BEAM = [*DATA, "apache-beam>=2.70"]
ALL = sorted({*APP, *HUB, *TRAIN, *MEDIAPIPE})

setup(
  name="dpr_jax",
  version=re.search(
    r'^__version__ = "(.+)"$', Path(__file__).with_name("dpr_jax").joinpath("__init__.py").read_text(), re.M
  )[1],
  description="Deep single-image portrait relighting in JAX/Flax",
  long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  classifiers=[
    "Development Status :: 4 - Beta",
    "Environment :: Console",
    "Intended Audience :: Science/Research",
    "Operating System :: OS Independent",
    "Programming Language :: Python :: 3",
    "Programming Language :: Python :: 3.11",
    "Topic :: Multimedia :: Graphics",
    "Topic :: Scientific/Engineering :: Image Processing",
    "Typing :: Typed",
  ],
  license="Apache-2.0",
  license_files=["LICENSE", "NOTICE"],
  packages=find_packages(include=["dpr_jax", "dpr_jax.*", "data_gen", "data_gen.*"]),
  package_data={
    "dpr_jax": ["py.typed", "portrait/canonical_face.npz", "weights/*.npz", "web/page/*"],
    "data_gen": ["heads/landmarks.csv"],
  },
  entry_points={"console_scripts": ["dpr-jax = dpr_jax.cli.program:main"]},
  python_requires=">=3.11",
  install_requires=[
    "absl-py>=2.1",
    "filelock>=3.12",
    "flatbuffers>=24.3",  # jax.export writes by it, and does not require it
    "flax>=0.12",
    "jax>=0.10",
    "ml_collections>=1.1",
    "ml_dtypes>=0.5",
    "numpy>=2.1",
    # The one OpenCV wheel: MediaPipe (an extra) requires it, and a second one would overwrite its files.
    "opencv-contrib-python>=5.0",
    "openexr>=3.3",
    "pillow>=11.3",
    "pillow-heif>=1.0",
    "pooch[progress]>=1.8",
    "safetensors>=0.5",
    "scikit-image>=0.25",
    "scipy>=1.15",
    "tqdm>=4.66",
  ],
  extras_require={
    "cuda12": ["jax[cuda12]"],
    "cuda13": ["jax[cuda13]"],
    "tpu": ["jax[tpu]"],
    "tfds": ["tensorflow"],
    "film": FILM,
    "app": APP,
    "data": DATA,
    "train": TRAIN,
    "hub": HUB,
    "docs": DOCS,
    "mediapipe": MEDIAPIPE,
    "onnx": ONNX,
    "raw": RAW,
    "beam": BEAM,
    "all": ALL,
    "test": [
      *ALL,
      *BEAM,
      *DOCS,
      *ONNX,
      *RAW,
      "build",
      "imagecodecs",
      "mypy",
      "playwright>=1.60",
      "pyshtools",
      "pytest>=8",
      "pytest-xdist>=3.5",
      "ruff",
      "tensorflow-cpu; sys_platform == 'linux' and platform_machine == 'x86_64'",
    ],
  },
)

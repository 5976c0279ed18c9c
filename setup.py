"""Installs speechbrain_diffasr and the command `diffasr`."""

from pathlib import Path

from setuptools import find_packages, setup

# Both ends of the ranges are in constraints/; docs/installing.md says what passes with them.
REQUIRED = [
    "torch>=2.7,!=2.13.*,<2.15",
    "torchaudio>=2.7",
    "speechbrain>=1.1,<2",
    "transformers>=5.12,<6",
    "peft>=0.18,<1",
    "huggingface_hub>=1.5,<3",
    "hyperpyyaml>=1.2.2,<2",
    "sentencepiece>=0.2,<1",
    "safetensors>=0.8,<1",
    "soundfile>=0.12,<1",
    "lazy_loader>=0.4,<1",
    "matplotlib>=3.9,<4",
    "numpy>=1.26",
    "tqdm>=4.66,<5",
    "wcwidth>=0.3,<1",
    "whisper-normalizer>=0.1.12,<0.2",  # Whisper's table of English spellings
]
TENSORBOARD = ["tensorboard>=2.16,<3"]
VAD = ["silero-vad>=6.2.3,<7"]
# FFmpeg in a wheel, for what libsndfile cannot open.
AV = ["av>=15,<19"]
# What transcripts are read back by, in the format that each is written in.
READERS = [
    "jsonschema>=4.26,<5",
    "lhotse>=1.33,<2",
    "praat-parselmouth>=0.4.7,<0.5",
    "pyannote-database>=5.1,<7",
    "pysubs2>=1.8,<2",
    "webvtt-py>=0.6,<1",
]
TEST = [
    "pytest>=8,<10",
    "pytest-xdist>=3,<4",
    "ruff==0.17.*",
    "jiwer>=4,<5",
    "scikit-learn>=1.7,<2",  # SpeechBrain's diarization
    "playwright>=1.50,<2",  # drives a Chromium that is there; without one its tests are skipped
    "pyte>=0.8,<0.9",
    "pypinyin>=0.50,<1",  # recipes/SyntheticSpeech speaks Mandarin from it
    "nbclient>=0.10,<1",
    "ipykernel>=6,<8",
    "setuptools>=77,<82",  # makes the wheel that is tested
    "mypy>=1.15,<3",
    *READERS,
    *TENSORBOARD,
    *VAD,
    *AV,
]
# The models stand beside the package in the source, and in it once it is installed.
MODELS = "speechbrain_diffasr.pretrained"

setup(
    name="speechbrain_diffasr",
    version="0.2.0",
    description="Speech recognition by discrete diffusion, as a SpeechBrain plugin",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Typing :: Typed",
    ],
    packages=[
        *find_packages(include=["speechbrain_diffasr", "speechbrain_diffasr.*"]),
        MODELS,
    ],
    package_dir={MODELS: "pretrained"},
    package_data={
        "": ["*.pyi"],
        "speechbrain_diffasr": ["py.typed"],
        "speechbrain_diffasr.visualization": ["templates/*"],
        MODELS: ["*/*", "*/samples/*"],
    },
    python_requires=">=3.11",
    install_requires=REQUIRED,
    extras_require={"tensorboard": TENSORBOARD, "vad": VAD, "av": AV, "test": TEST},
    entry_points={"console_scripts": ["diffasr=speechbrain_diffasr.cli:main"]},
)

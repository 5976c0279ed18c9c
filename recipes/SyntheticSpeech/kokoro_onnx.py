"""Makes a folder for prepare_kokoro.py of Kokoro-82M's ONNX export in 8 bits and its voices.

    python kokoro_onnx.py --model kokoro-v1.0.int8.onnx --vocab vocab.json --voices voices \\
        --output kokoro

The export names what it holds after the modules of the package kokoro, by its own names or by those
of the nodes that read it. Matrices are stored with a factor and a zero point; weight norm is folded
in. `voices` holds NAME.bin, float32 [510, 256] each, as the npm package kokoro-js has them; `vocab`
is its tokenizer's table or that of config.json.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

# Of hexgrad/Kokoro-82M, version 1.0.
CONFIG = {
    "hidden_dim": 512,
    "n_token": 178,
    "style_dim": 128,
    "n_layer": 3,
    "max_dur": 50,
    "n_mels": 80,
    "dim_in": 64,
    "dropout": 0.2,
    "text_encoder_kernel_size": 5,
    "multispeaker": True,
    "plbert": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 2048,
        "max_position_embeddings": 512,
        "num_hidden_layers": 12,
        "dropout": 0.1,
    },
    "istftnet": {
        "upsample_kernel_sizes": [20, 12],
        "upsample_rates": [10, 6],
        "gen_istft_hop_size": 5,
        "gen_istft_n_fft": 20,
        "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
        "upsample_initial_channel": 512,
    },
}
QUANTIZED = "_quantized"
WEIGHT = ".weight" + QUANTIZED
# Between a product and the bias that is added to it.
PASSED = ("Cast", "Mul", "Add", "Reshape", "Unsqueeze", "FastGelu", "SkipLayerNormalization")


class Export:
    """The graph, its tensors, and who reads what."""

    def __init__(self, path):
        import onnx

        self.graph = onnx.load(str(path)).graph
        self.tensors = {
            tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in self.graph.initializer
        }
        self.readers = {}
        for node in self.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def matrix(self, name, zero):
        """A stored matrix as float32; factors and zero points belong to its output channels."""
        if not name.endswith(QUANTIZED):
            return self.tensors[name].astype(np.float32)
        stored = self.tensors[name].astype(np.float32)
        scale = np.asarray(self.tensors[name.removesuffix(QUANTIZED) + "_scale"])
        zero = np.asarray(self.tensors[zero] if zero else 0.0, np.float32)
        if stored.ndim > 2:  # convolutions begin with their output channels, products end with them
            scale, zero = (x.reshape(-1, 1, 1) if x.ndim else x for x in (scale, zero))
        return (stored - zero) * scale

    def bias_behind(self, name):
        """Name of the bias that is added to a result, or None."""
        waiting, seen = [(name, 0)], set()
        while waiting:
            result, depth = waiting.pop(0)
            for node in self.readers.get(result, ()):
                if node.name in seen:
                    continue
                seen.add(node.name)
                biases = [x for x in node.input if x in self.tensors and x.endswith(".bias")]
                if biases:
                    return biases[0]
                if depth < 5 and node.op_type in PASSED:
                    waiting += [(output, depth + 1) for output in node.output]
        return None


def module_name(name):
    """A tensor's name in KModel: the export has an encoder and a decoder around its parts."""
    return (
        name.removeprefix("decoder.")
        if name.startswith("decoder.decoder.")
        else (name.removeprefix("encoder."))
    )


def module_of_node(node):
    """The module that a node computes, from its path in the export."""
    path = node.name.strip("/").split("/")[:-1]
    path = ["decoder", *path[2:]] if path[0] == "decoder" else path[1:]
    if path[0].split(".")[0] in ("F0", "N", "F0_proj", "N_proj"):
        path = ["predictor", *path]
    if len(path) > 1 and path[-1].startswith(path[-2] + "."):  # cnn.0/cnn.0.0
        path.pop(-2)
    return ".".join(path)


def read_weights(path):
    """All weights by their names in KModel.

    Arguments
    ---------
    path : str or Path
        The ONNX file.

    Returns
    -------
    weights : dict
        float32.
    """
    export = Export(path)
    weights = {}
    for node in export.graph.node:
        stored = [name for name in node.input if name in export.tensors]
        if node.op_type in ("ConvInteger", "ConvTranspose", "Conv") and node.input[1] in stored:
            zero = node.input[3] if node.op_type == "ConvInteger" and len(node.input) > 3 else None
            weights[module_of_node(node) + ".weight"] = export.matrix(node.input[1], zero)
        elif node.op_type in ("MatMulInteger", "MatMul") and node.input[1] in stored:
            name, zero = node.input[1], None
            if node.op_type == "MatMulInteger" and len(node.input) > 3:
                zero = node.input[3]
            bias = export.bias_behind(node.output[0])
            if name.endswith(WEIGHT):
                place = name.removesuffix(QUANTIZED)
            elif bias is not None:
                place = bias.removesuffix(".bias") + ".weight"
            else:
                continue
            weights[module_name(place)] = export.matrix(name, zero).T
        elif node.op_type == "Gather" and node.input[0].endswith(WEIGHT):
            restored = export.readers[node.output[0]][0]
            scale, *zero = (export.tensors[name] for name in restored.input[1:])
            table = export.tensors[node.input[0]].astype(np.float32)
            place = module_name(node.input[0].removesuffix(QUANTIZED))
            weights[place] = (table - (zero[0].astype(np.float32) if zero else 0)) * scale
        elif node.op_type == "DynamicQuantizeLSTM":
            weights |= read_lstm(export, node)
    for name, tensor in export.tensors.items():
        if re.search(
            r"\.(bias|gamma|beta|alpha\d\.\d)$|layer_norm\.weight$|LayerNorm\.weight$", name
        ):
            weights[module_name(name)] = tensor.astype(np.float32)
    return weights


def read_lstm(export, node):
    """An LSTM's weights; ONNX has its gates in another order than torch."""

    def gates(x):
        first, output, forget, cell = np.split(x, 4, axis=-1)
        return np.concatenate([first, forget, cell, output], axis=-1)

    path = node.name.strip("/").split("/")[1:-1]
    place = ".".join(path if path[0] in ("text_encoder", "predictor") else ["predictor", *path])
    biases = export.tensors[node.input[3]].astype(np.float32)
    weights = {}
    for direction, suffix in enumerate(("", "_reverse")):
        for kind, matrix, factor in (("ih", 1, 8), ("hh", 2, 10)):
            stored = export.tensors[node.input[matrix]][direction].astype(np.float32)
            scale = export.tensors[node.input[factor]][direction]
            zero = export.tensors[node.input[factor + 1]][direction].astype(np.float32)
            weights[f"{place}.weight_{kind}_l0{suffix}"] = gates((stored - zero) * scale).T
        halves = np.split(biases[direction], 2)
        for kind, half in zip(("ih", "hh"), halves, strict=True):
            weights[f"{place}.bias_{kind}_l0{suffix}"] = gates(half)
    return weights


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="the ONNX file")
    parser.add_argument("--vocab", required=True, help="JSON: numbers by symbol")
    parser.add_argument("--voices", required=True, type=Path, help="folder of NAME.bin")
    parser.add_argument("--output", required=True, type=Path, help="folder to write")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    vocab = json.loads(Path(args.vocab).read_text(encoding="utf-8"))
    config = {**CONFIG, "vocab": vocab.get("vocab", vocab)}
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (args.output / "config.json").write_text(text, encoding="utf-8")

    from prepare_kokoro import plain_model

    own = plain_model(args.output / "config.json").state_dict()
    weights = read_weights(args.model)
    found = {name: weights[name] for name in own if name in weights}
    # Norms that the package has and the export lacks do nothing; the pooler is not used.
    missing = [name for name in own if name not in found and ".norm" not in name]
    missing = [name for name in missing if ".pooler." not in name and ".adain" not in name]
    if missing:
        raise SystemExit(f"{args.model}: lacks {len(missing)} weights, {missing[0]} among them")
    halves = {
        name: torch.from_numpy(np.ascontiguousarray(weight)).half().view(own[name].shape)
        for name, weight in found.items()
    }
    save_file(halves, args.output / "kokoro.safetensors", metadata={"format": "pt"})
    voices = {
        path.stem: torch.from_numpy(np.fromfile(path, np.float32)).half().view(-1, 256)
        for path in sorted(args.voices.glob("*.bin"))
    }
    save_file(voices, args.output / "voices.safetensors", metadata={"format": "pt"})
    print(f"{args.output}: {len(halves)} tensors, {len(voices)} voices")


if __name__ == "__main__":
    main()

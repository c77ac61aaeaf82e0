#!/usr/bin/env python3
"""Tokens a second of a single request in transformers: greedy, with its cache, beside `nola-train bench serve --adapters 1 --running 1`.

    python3 benchmarks/generate_torch.py [--model gpt2|FOLDER] [--threads N] [--prompt-tokens N] [--new-tokens N] [--rounds N] [--dtype fp32|bf16]

`gpt2` is GPT-2 small with random weights, anything else a model folder. Prints one JSON line. Needs torch and transformers.
"""

import argparse
import json
import statistics
import time

import torch
import transformers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    if args.model == "gpt2":
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config()).to(dtype)
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
    model.eval()
    prompt = torch.arange(args.prompt_tokens)[None] % 200 + 3

    def seconds(new_tokens):
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new_tokens, min_new_tokens=new_tokens,
                           do_sample=False, pad_token_id=0)
        return time.perf_counter() - started

    seconds(args.new_tokens)
    whole = [seconds(args.new_tokens) for _ in range(args.rounds)]
    first = [seconds(1) for _ in range(args.rounds)]
    print(json.dumps({
        "what": "generate", "model": args.model, "dtype": args.dtype, "threads": args.threads, "torch": torch.__version__,
        "transformers": transformers.__version__, "prompt_tokens": args.prompt_tokens, "new_tokens": args.new_tokens,
        "tokens_per_second": args.new_tokens / statistics.median(whole), "request_s": statistics.median(whole),
        "first_token_s": statistics.median(first),
    }))


if __name__ == "__main__":
    main()

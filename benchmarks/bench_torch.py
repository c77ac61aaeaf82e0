#!/usr/bin/env python3
"""PyTorch side of the side-by-side benchmark.

One JSON line per case on stdout:
  model, method, batch, seq, dtype, device, threads, median_s, p10, p90, min_s,
  cpu_median_s, peak_rss_mb, ...

Every case runs in a child process of its own, so that peak_rss_mb is the peak
of that case alone.  With --rounds N the whole list is run N times, in turn, and
the samples of a case are pooled: on a machine with other load this keeps the
ratios between cases fair.

Methods
  frozen      forward only, no gradients, no adapter
  full        all weights train (for scale; slow)
  lora        PEFT LoRA, rank --rank
  vera        PEFT VeRA, rank --vera-rank
  nola        NOLA, bases generated again in forward and in backward, in chunks
              (memory lean: nothing of size k*d*r is ever alive)
  nola-cached NOLA, the bases of every layer kept in memory
  nola-shared NOLA, one pair of bases kept per shape and shared by all layers; the
              coefficients of all layers are contracted with it in one GEMM
  more        through --plugin FILE, a Python file with a dict METHODS
              {name: function(model, preset, args) -> list of trainable parameters}

NOLA here follows the equations of arXiv 2310.02556: W' = W + s * B A with
A = A0 + sum_i alpha_i A_i / sqrt(k),  B = sum_j beta_j B_j / sqrt(l), the A_i and
B_j i.i.d. uniform(-1, 1) and never stored by `nola`; only alpha and beta train.

Examples
  bench_torch.py --models gpt2,llama-160m --methods frozen,lora,nola --threads 2
  bench_torch.py --device cuda --dtype bf16 --compile --models llama-1b --batch 8 --seq 1024
  bench_torch.py --probe
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time

PRESETS = {
    # batch and seq here are the defaults; --batch and --seq override them
    "vit-b16": dict(kind="vit", hidden=768, layers=12, heads=12, ffn=3072, image=224, patch=16,
                    labels=10, batch=8, rank=4, k=1024),
    "vit-l16": dict(kind="vit", hidden=1024, layers=24, heads=16, ffn=4096, image=224, patch=16,
                    labels=10, batch=8, rank=4, k=1024),
    "gpt2": dict(kind="gpt2", hidden=768, layers=12, heads=12, vocab=50257, positions=1024,
                 batch=4, seq=256, rank=8, k=1024),
    "gpt2-medium": dict(kind="gpt2", hidden=1024, layers=24, heads=16, vocab=50257, positions=1024,
                        batch=2, seq=512, rank=8, k=512),
    "gpt2-large": dict(kind="gpt2", hidden=1280, layers=36, heads=20, vocab=50257, positions=1024,
                       batch=2, seq=512, rank=8, k=512),
    "llama-160m": dict(kind="llama", hidden=768, layers=12, heads=12, kv=12, ffn=2048, vocab=32000,
                       batch=2, seq=256, rank=16, k=512),
    "llama-1b": dict(kind="llama", hidden=2048, layers=22, heads=32, kv=4, ffn=5632, vocab=32000,
                     batch=4, seq=512, rank=16, k=512),
    "llama-7b": dict(kind="llama", hidden=4096, layers=32, heads=32, kv=32, ffn=11008, vocab=32000,
                     batch=4, seq=512, rank=16, k=512),
    # seconds-sized shapes, to see that the harness itself works
    "tiny-gpt2": dict(kind="gpt2", hidden=64, layers=2, heads=4, vocab=211, positions=64,
                      batch=2, seq=16, rank=4, k=32),
    "tiny-llama": dict(kind="llama", hidden=64, layers=2, heads=4, kv=2, ffn=128, vocab=211,
                       batch=2, seq=16, rank=4, k=32),
    "tiny-vit": dict(kind="vit", hidden=64, layers=2, heads=4, ffn=128, image=32, patch=8, labels=7,
                     batch=2, rank=4, k=32),
}


# --------------------------------------------------------------------------- models
def build_model(p, args, torch):
    attn = {"flash": "sdpa"}.get(args.attn, args.attn)
    if p["kind"] == "gpt2":
        from transformers import GPT2Config, GPT2LMHeadModel
        cfg = GPT2Config(n_embd=p["hidden"], n_layer=p["layers"], n_head=p["heads"], vocab_size=p["vocab"],
                         n_positions=p["positions"], resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
                         bos_token_id=0, eos_token_id=0, use_cache=False)
        cls = GPT2LMHeadModel
    elif p["kind"] == "llama":
        from transformers import LlamaConfig, LlamaForCausalLM
        cfg = LlamaConfig(hidden_size=p["hidden"], num_hidden_layers=p["layers"], num_attention_heads=p["heads"],
                          num_key_value_heads=p["kv"], intermediate_size=p["ffn"], vocab_size=p["vocab"],
                          max_position_embeddings=4096, rms_norm_eps=1e-5, tie_word_embeddings=False,
                          use_cache=False)
        cls = LlamaForCausalLM
    else:
        from transformers import ViTConfig, ViTForImageClassification
        cfg = ViTConfig(hidden_size=p["hidden"], num_hidden_layers=p["layers"], num_attention_heads=p["heads"],
                        intermediate_size=p["ffn"], image_size=p["image"], patch_size=p["patch"],
                        num_labels=p["labels"], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        cls = ViTForImageClassification
    cfg._attn_implementation = attn
    torch.manual_seed(0)
    with torch.device(args.device):
        model = cls(cfg)
    if args.param_dtype == "bf16":
        model = model.to(torch.bfloat16)
    model.train()
    for q in model.parameters():
        q.requires_grad_(False)
    return model


def batch_for(p, args, torch):
    g = torch.Generator().manual_seed(1)
    b = args.batch or p["batch"]
    if p["kind"] == "vit":
        x = torch.randn(b, 3, p["image"], p["image"], generator=g)
        if args.param_dtype == "bf16":
            x = x.to(torch.bfloat16)
        y = torch.randint(p["labels"], (b,), generator=g)
        return dict(pixel_values=x.to(args.device), labels=y.to(args.device)), b, (p["image"] // p["patch"]) ** 2 + 1
    s = args.seq or p["seq"]
    ids = torch.randint(p["vocab"], (b, s), generator=g).to(args.device)
    return dict(input_ids=ids, labels=ids), b, s


# --------------------------------------------------------------------------- NOLA
def target_sites(model, p):
    """[(parent module, attribute name, 'fused' | 'plain', d_in, d_out)] for the q and v projections."""
    import torch
    out = []
    for mod in model.modules():
        for name, child in mod.named_children():
            if p["kind"] == "gpt2" and name == "c_attn":
                out.append((mod, name, "fused", p["hidden"], p["hidden"]))
            elif name in ("q_proj", "v_proj", "query", "value") and isinstance(child, torch.nn.Linear):
                out.append((mod, name, "plain", child.in_features, child.out_features))
    return out


def nola_classes(torch, chunk_bytes):
    nn, F = torch.nn, torch.nn.functional

    def fill(gen, n, numel, dtype, device):
        return torch.empty(n, numel, dtype=dtype, device=device).uniform_(-1.0, 1.0, generator=gen)

    def chunk_rows(numel, itemsize):
        return max(1, chunk_bytes // max(1, numel * itemsize))

    class ComposeRegen(torch.autograd.Function):
        """coef (k,) -> (numel,): sum_i coef_i * basis_i / sqrt(k); the basis is made again when needed."""

        @staticmethod
        def forward(ctx, coef, numel, seed):
            k = coef.shape[0]
            gen = torch.Generator(coef.device).manual_seed(seed)
            out = torch.zeros(numel, dtype=coef.dtype, device=coef.device)
            step = chunk_rows(numel, coef.element_size())
            for i in range(0, k, step):
                n = min(step, k - i)
                out.addmv_(fill(gen, n, numel, coef.dtype, coef.device).t(), coef[i:i + n])
            ctx.args = (k, numel, seed, coef.dtype, coef.device)
            return out.mul_(1.0 / math.sqrt(k))

        @staticmethod
        def backward(ctx, g):
            k, numel, seed, dtype, device = ctx.args
            gen = torch.Generator(device).manual_seed(seed)
            g = g.contiguous().to(dtype)
            out = torch.empty(k, dtype=dtype, device=device)
            step = chunk_rows(numel, out.element_size())
            for i in range(0, k, step):
                n = min(step, k - i)
                torch.mv(fill(gen, n, numel, dtype, device), g, out=out[i:i + n])
            return out.mul_(1.0 / math.sqrt(k)), None, None

    class Adapter(nn.Module):
        def __init__(self, d_in, d_out, r, k, l, scale, seed, mode, device, dtype):
            super().__init__()
            self.shape_a, self.shape_b, self.scale = (r, d_in), (d_out, r), scale
            self.k, self.l, self.seed, self.mode = k, l, seed, mode
            g = torch.Generator(device).manual_seed(seed)
            bound = 1.0 / math.sqrt(d_in)
            a0 = torch.empty(r, d_in, device=device, dtype=dtype).uniform_(-bound, bound, generator=g)
            self.register_buffer("a0", a0, persistent=False)
            self.alpha = nn.Parameter(torch.zeros(k, device=device, dtype=torch.float32))
            # small, not zero: with zeros the gradient of alpha is exactly zero at step one
            self.beta = nn.Parameter(torch.full((l,), 1e-3, device=device, dtype=torch.float32))
            if mode == "cached":
                ga = torch.Generator(device).manual_seed(seed + 1)
                gb = torch.Generator(device).manual_seed(seed + 2)
                self.register_buffer("ba", fill(ga, k, r * d_in, dtype, device), persistent=False)
                self.register_buffer("bb", fill(gb, l, r * d_out, dtype, device), persistent=False)

        def compose(self):
            with torch.autocast(self.a0.device.type, enabled=False):
                return self.compose_()

        def compose_(self):
            if self.mode == "regen":
                a = ComposeRegen.apply(self.alpha, self.shape_a[0] * self.shape_a[1], self.seed + 1)
                b = ComposeRegen.apply(self.beta, self.shape_b[0] * self.shape_b[1], self.seed + 2)
            else:
                a = (self.alpha / math.sqrt(self.k)).to(self.ba.dtype) @ self.ba
                b = (self.beta / math.sqrt(self.l)).to(self.bb.dtype) @ self.bb
            return self.a0 + a.view(self.shape_a).to(self.a0.dtype), b.view(self.shape_b).to(self.a0.dtype)

        def delta(self, x):
            a, b = self.compose()
            return F.linear(F.linear(x, a), b) * self.scale

    class SharedBank(nn.Module):
        """One basis per (rows, cols); all coefficient vectors of that shape are contracted at once, once a step."""

        def __init__(self):
            super().__init__()
            self.slots, self.current = {}, {}

        def add(self, key, coef, k, numel, seed, dtype, device):
            slot = self.slots.setdefault(key, dict(coefs=[], basis=None, k=k))
            if slot["basis"] is None:
                g = torch.Generator(device).manual_seed(seed)
                slot["basis"] = fill(g, k, numel, dtype, device)
            slot["coefs"].append(coef)
            return len(slot["coefs"]) - 1

        def refresh(self):
            for key, s in self.slots.items():
                with torch.autocast(s["basis"].device.type, enabled=False):
                    self.contract(key, s)

        def contract(self, key, s):
            c = torch.stack(s["coefs"]) / math.sqrt(s["k"])
            self.current[key] = (c.to(s["basis"].dtype) @ s["basis"]).unbind(0)

    class SharedAdapter(nn.Module):
        def __init__(self, bank, d_in, d_out, r, k, l, scale, seed, device, dtype):
            super().__init__()
            self.bank, self.scale = [bank], scale
            self.shape_a, self.shape_b = (r, d_in), (d_out, r)
            bound = 1.0 / math.sqrt(d_in)
            g = torch.Generator(device).manual_seed(seed)
            self.register_buffer("a0", torch.empty(r, d_in, device=device, dtype=dtype)
                                 .uniform_(-bound, bound, generator=g), persistent=False)
            self.alpha = nn.Parameter(torch.zeros(k, device=device))
            self.beta = nn.Parameter(torch.full((l,), 1e-3, device=device))
            self.ka, self.kb = ("a", d_in, r), ("b", d_out, r)
            self.ia = bank.add(self.ka, self.alpha, k, r * d_in, 11, dtype, device)
            self.ib = bank.add(self.kb, self.beta, l, r * d_out, 12, dtype, device)

        def delta(self, x):
            cur = self.bank[0].current
            a = self.a0 + cur[self.ka][self.ia].view(self.shape_a)
            b = cur[self.kb][self.ib].view(self.shape_b)
            return F.linear(F.linear(x, a), b) * self.scale

    class Plain(nn.Module):
        def __init__(self, base, ad):
            super().__init__()
            self.base, self.ad = base, ad

        def forward(self, x):
            return self.base(x) + self.ad.delta(x)

    class Fused(nn.Module):
        """GPT-2 c_attn: q and v of the fused projection are adapted, k is not."""

        def __init__(self, base, q, v, d):
            super().__init__()
            self.base, self.q, self.v, self.d = base, q, v, d

        def forward(self, x):
            y = self.base(x)
            if torch.compiler.is_compiling():                # Inductor's C++ backend (2.11) fails on the in-place form
                d = self.d
                return torch.cat((y[..., :d] + self.q.delta(x), y[..., d:2 * d], y[..., 2 * d:] + self.v.delta(x)), -1)
            y[..., :self.d] += self.q.delta(x)
            y[..., 2 * self.d:] += self.v.delta(x)
            return y

    return Adapter, SharedBank, SharedAdapter, Plain, Fused


def install_nola(model, p, args, torch, mode):
    Adapter, SharedBank, SharedAdapter, Plain, Fused = nola_classes(torch, args.chunk_kib * 1024)
    r, k = args.rank or p["rank"], args.k or p["k"]
    l = args.l or k
    scale = args.alpha / r
    dtype = torch.bfloat16 if args.param_dtype == "bf16" else torch.float32
    bank = SharedBank() if mode == "shared" else None
    params, seed = [], 1000

    def make(d_in, d_out):
        nonlocal seed
        seed += 10
        if bank is not None:
            ad = SharedAdapter(bank, d_in, d_out, r, k, l, scale, seed, args.device, dtype)
        else:
            ad = Adapter(d_in, d_out, r, k, l, scale, seed, mode, args.device, dtype)
        params.extend([ad.alpha, ad.beta])
        return ad

    for mod, name, how, d_in, d_out in target_sites(model, p):
        base = getattr(mod, name)
        if how == "fused":
            setattr(mod, name, Fused(base, make(d_in, d_out), make(d_in, d_out), d_out))
        else:
            setattr(mod, name, Plain(base, make(d_in, d_out)))
    before = bank.refresh if bank is not None else None
    return model, params, before


def install_peft(model, p, args, torch, method):
    from peft import LoraConfig, VeraConfig, get_peft_model
    targets = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"], "vit": None}[p["kind"]]
    if targets is None:
        names = {n.split(".")[-1] for n, _ in model.named_modules()}
        targets = ["query", "value"] if "query" in names else ["q_proj", "v_proj"]
    fifo = p["kind"] == "gpt2"
    if method == "lora":
        cfg = LoraConfig(r=args.lora_rank, lora_alpha=args.lora_rank, target_modules=targets, fan_in_fan_out=fifo)
    else:
        cfg = VeraConfig(r=args.vera_rank, target_modules=targets, fan_in_fan_out=fifo)
    model = get_peft_model(model, cfg)
    return model, [q for q in model.parameters() if q.requires_grad], None


# --------------------------------------------------------------------------- one case
def proc_mb(field):
    try:
        for line in open("/proc/self/status"):
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024.0
    except OSError:
        pass
    return float("nan")


def reset_peak():
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
        return True
    except OSError:
        return False


def pct(xs, q):
    xs = sorted(xs)
    i = (len(xs) - 1) * q
    lo = int(i)
    hi = min(lo + 1, len(xs) - 1)
    return xs[lo] + (xs[hi] - xs[lo]) * (i - lo)


def run_case(args, model_name, method):
    import torch
    torch.set_num_threads(args.threads)
    if args.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = args.tf32
        torch.backends.cudnn.allow_tf32 = args.tf32
    p = PRESETS[model_name]
    t0 = time.perf_counter()
    model = build_model(p, args, torch)
    before, params = None, []
    if method == "frozen":
        pass
    elif method == "full":
        params = list(model.parameters())
        for q in params:
            q.requires_grad_(True)
    elif method in ("lora", "vera"):
        model, params, before = install_peft(model, p, args, torch, method)
    elif method.startswith("nola"):
        mode = {"nola": "regen", "nola-cached": "cached", "nola-shared": "shared"}[method]
        model, params, before = install_nola(model, p, args, torch, mode)
    else:
        scope = {}
        exec(compile(open(args.plugin).read(), args.plugin, "exec"), scope)
        params = scope["METHODS"][method](model, p, args)
    batch, b, s = batch_for(p, args, torch)
    build_s = time.perf_counter() - t0
    opt = torch.optim.AdamW(params, lr=1e-4) if params else None
    run_model = torch.compile(model) if args.compile else model
    use_amp = args.dtype == "bf16" and args.param_dtype != "bf16"
    cuda = args.device == "cuda"
    if args.attn == "flash" and cuda:
        from torch.nn.attention import SDPBackend, sdpa_kernel
        attn_ctx = lambda: sdpa_kernel([SDPBackend.FLASH_ATTENTION])
    else:
        import contextlib
        attn_ctx = contextlib.nullcontext

    def step():
        with torch.autocast(args.device, torch.bfloat16, enabled=use_amp), attn_ctx():
            if before is not None:
                before()
            out = run_model(**batch)
        if opt is not None:
            out.loss.backward()
            opt.step()
            opt.zero_grad(set_to_none=True)
        return out.loss.detach()

    def sync():
        if cuda:
            torch.cuda.synchronize()

    import contextlib
    grad_ctx = torch.no_grad() if opt is None else contextlib.nullcontext()
    rss_model = proc_mb("VmRSS")
    ok_reset = reset_peak()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    walls, cpus, losses = [], [], []
    with grad_ctx:
        for i in range(args.warmup + args.steps):
            sync()
            w0, c0 = time.perf_counter(), time.process_time()
            loss = step()
            sync()
            w1, c1 = time.perf_counter(), time.process_time()
            if i >= args.warmup:
                walls.append(w1 - w0)
                cpus.append(c1 - c0)
            losses.append(float(loss))
            if sum(walls) > args.max_seconds and len(walls) >= args.min_steps:
                break
    r = dict(model=model_name, method=method, batch=b, seq=s, dtype=args.dtype, param_dtype=args.param_dtype,
             device=args.device, threads=args.threads, attn=args.attn, compile=bool(args.compile),
             walls=walls, cpus=cpus, build_s=round(build_s, 2),
             peak_rss_mb=round(proc_mb("VmHWM"), 1), rss_after_build_mb=round(rss_model, 1), peak_reset=ok_reset,
             trainable=sum(q.numel() for q in params), loss_first=losses[0], loss_last=losses[-1],
             torch=torch.__version__)
    if method in ("nola", "nola-cached", "nola-shared") or method not in ("frozen", "full", "lora", "vera"):
        r.update(rank=args.rank or p["rank"], k=args.k or p["k"])
    elif method == "lora":
        r.update(rank=args.lora_rank)
    elif method == "vera":
        r.update(rank=args.vera_rank)
    if cuda:
        r["peak_device_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
        r["gpu"] = torch.cuda.get_device_name()
    return r


# --------------------------------------------------------------------------- probes
def probe(args):
    import torch
    torch.set_num_threads(args.threads)
    dev = args.device

    def timed(f, reps):
        f()
        ts = []
        for _ in range(reps):
            if dev == "cuda":
                torch.cuda.synchronize()
            a, c = time.perf_counter(), time.process_time()
            f()
            if dev == "cuda":
                torch.cuda.synchronize()
            ts.append((time.perf_counter() - a, time.process_time() - c))
        return min(t[0] for t in ts), statistics.median(t[0] for t in ts), statistics.median(t[1] for t in ts)

    def emit(**kw):
        print(json.dumps(dict(probe=True, device=dev, threads=args.threads, **kw)), flush=True)

    for dt, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        for n in (1024, 2048, 4096):
            a, b = torch.randn(n, n, device=dev).to(dt), torch.randn(n, n, device=dev).to(dt)
            lo, med, cpu = timed(lambda: torch.mm(a, b), 12 if n < 4096 else 5)
            emit(what=f"mm_{name}_{n}", gflops_best=round(2 * n**3 / lo / 1e9, 1),
                 gflops_median=round(2 * n**3 / med / 1e9, 1), cpu_median_s=round(cpu, 4))
    n = 64 * 2**20 if dev == "cpu" else 512 * 2**20
    a, b = torch.ones(n, device=dev), torch.ones(n, device=dev)
    lo, med, _ = timed(lambda: b.copy_(a), 10)
    emit(what="copy_fp32", gb_s_best=round(8 * n / lo / 1e9, 2), gb_s_median=round(8 * n / med / 1e9, 2))
    c = torch.empty_like(a)
    lo, med, _ = timed(lambda: torch.add(a, b, alpha=3.0, out=c), 10)
    emit(what="triad_fp32", gb_s_best=round(12 * n / lo / 1e9, 2), gb_s_median=round(12 * n / med / 1e9, 2))
    lo, med, _ = timed(lambda: a.sum(), 10)
    emit(what="read_fp32", gb_s_best=round(4 * n / lo / 1e9, 2), gb_s_median=round(4 * n / med / 1e9, 2))
    m = torch.empty(1024, 8 * 768, device=dev)
    for nm, f in (("uniform", lambda: m.uniform_(-1, 1)), ("normal", lambda: m.normal_())):
        lo, med, cpu = timed(f, 12)
        emit(what=f"{nm}_1024x6144", gelem_s_best=round(m.numel() / lo / 1e9, 4),
             gelem_s_median=round(m.numel() / med / 1e9, 4), cpu_median_s=round(cpu, 4))
    v = torch.randn(1024, device=dev)
    lo, med, _ = timed(lambda: v @ m, 20)
    emit(what="compose_gemv_1024x6144", gb_s_best=round(4 * m.numel() / lo / 1e9, 2), ms_median=round(med * 1e3, 3))


# --------------------------------------------------------------------------- driver
def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--models", default="gpt2")
    ap.add_argument("--methods", default="frozen,lora,nola")
    ap.add_argument("--batch", type=int)
    ap.add_argument("--seq", type=int)
    ap.add_argument("--rank", type=int, help="rank of NOLA; default: the preset's")
    ap.add_argument("--lora-rank", type=int, default=8)
    ap.add_argument("--vera-rank", type=int, default=256)
    ap.add_argument("--k", type=int, help="number of bases of A; default: the preset's")
    ap.add_argument("--l", type=int, help="number of bases of B; default: k")
    ap.add_argument("--alpha", type=float, default=8.0, help="NOLA scaling numerator, s = alpha / rank")
    ap.add_argument("--chunk-kib", type=int, default=512, help="size of the block of bases alive at a time in `nola`")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--steps", type=int, default=7)
    ap.add_argument("--warmup", type=int, default=1)
    ap.add_argument("--rounds", type=int, default=1)
    ap.add_argument("--max-seconds", type=float, default=60.0, help="stop a case after this long, once --min-steps are in")
    ap.add_argument("--min-steps", type=int, default=3)
    ap.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    ap.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast")
    ap.add_argument("--param-dtype", choices=["fp32", "bf16"], default="fp32", help="type the frozen weights are held in")
    ap.add_argument("--attn", choices=["sdpa", "eager", "flash"], default="sdpa")
    ap.add_argument("--tf32", action="store_true")
    ap.add_argument("--compile", action="store_true")
    ap.add_argument("--plugin")
    ap.add_argument("--probe", action="store_true")
    ap.add_argument("--samples", action="store_true", help="also print the single samples")
    ap.add_argument("--case", help=argparse.SUPPRESS)
    args = ap.parse_args()
    if args.probe:
        return probe(args)
    if args.case:
        m, meth = args.case.split("/")
        print("RESULT " + json.dumps(run_case(args, m, meth)), flush=True)
        return
    cases = [(m, meth) for m in args.models.split(",") for meth in args.methods.split(",")]
    pooled = {}
    env = dict(os.environ, OMP_NUM_THREADS=str(args.threads), MKL_NUM_THREADS=str(args.threads),
               TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    for rnd in range(args.rounds):
        order = cases if rnd % 2 == 0 else cases[::-1]
        for m, meth in order:
            load0 = os.getloadavg()[0]
            out = subprocess.run([sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--case", f"{m}/{meth}"],
                                 env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            line = [x for x in out.stdout.splitlines() if x.startswith("RESULT ")]
            if not line:
                print(json.dumps(dict(model=m, method=meth, error=out.stderr.strip().splitlines()[-1:] or ["no output"])),
                      flush=True)
                continue
            r = json.loads(line[0][7:])
            r["load_avg"] = [round(load0, 2), round(os.getloadavg()[0], 2)]
            old = pooled.get((m, meth))
            if old:
                r["walls"] = old["walls"] + r["walls"]
                r["cpus"] = old["cpus"] + r["cpus"]
                r["peak_rss_mb"] = max(old["peak_rss_mb"], r["peak_rss_mb"])
            pooled[(m, meth)] = r
            if rnd == args.rounds - 1:
                w = r["walls"]
                full = dict(r)
                full.pop("walls"), full.pop("cpus")
                full.update(n=len(w), median_s=round(statistics.median(w), 4), p10=round(pct(w, .1), 4),
                            p90=round(pct(w, .9), 4), min_s=round(min(w), 4),
                            cpu_median_s=round(statistics.median(r["cpus"]), 4), cpu_min_s=round(min(r["cpus"]), 4),
                            items_per_s=round(r["batch"] * r["seq"] / statistics.median(w), 1))
                if args.samples:
                    full["samples"] = [round(x, 4) for x in w]
                print(json.dumps(full), flush=True)


if __name__ == "__main__":
    main()

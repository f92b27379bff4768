"""The MALMEN editor (Tan, Zhang, Fu: Massive Editing for Large Language Models via Meta Learning, ICLR 2024).

One step, one module, in the paper's words and this package's names:

    facts → keys ``K`` and gradients at chosen tokens  (capture)
          → value differences ``D``                    (hypernetwork, then refinement)
          → ``S = (K'K + M)⁻¹ K'D``                    (normal_equation), with ``M = λI + c·C0``  (prior)
          → base weight + ``S``                        (delta, overlay)
          → a measured report                          (verify)

Tensor names carry their axes as a suffix. The glossary:

==== =======================================================
B    sequences of a batch
L    positions of a sequence
A    answer positions of a batch, all sequences together
N    tokens of a batch, all sequences together
T    rows of an edit set: tokens at which a module is edited
U    input features of a module (a key)
V    output features of a module (a value)
R    rank of a factored delta or of a residual block
F    facts
X    vocabulary
==== =======================================================

A prime in a comment is a transpose. ``S`` is stored input-major (U × V) for `nn.Linear` and `Conv1D` alike,
so a module
with input ``x`` gains ``x @ S``.
"""

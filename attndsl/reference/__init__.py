"""The oracle: one attention evaluated densely, exactly as its definition reads.

Every value is a torch tensor whose first four dimensions are (batch, head, query, key), each of its full
extent or 1; vectors and matrices have their own dimensions after those. Nothing is tiled, fused, simplified
or shifted, except that the row maximum is taken out of the default softmax. Gradients are torch's own.

One rule makes gradients right where a definition is not defined: `_cut` severs float operands, before any
operation, on every pair that cannot contribute (invisible, a score of -inf, the branch of an `if` not taken,
a quotient whose denominator is 0), so that no gradient passes there, whatever the operation's derivative is.

The same code in another `dtype` is "the plain eager computation in that dtype".

Tensors must be finite. A weight that writes `exp` itself is taken as written and overflows where exp does.
"""

from attndsl.reference.call import reference, visible
from attndsl.reference.grids import extents

__all__ = ["extents", "reference", "visible"]

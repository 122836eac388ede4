"""The paper's tables and figures, and the demonstration: each one function over the public API."""

"""What each tenant has got of the engine, so that one with a thousand requests does not shut out one with two.

A virtual counter per tenant: the tokens computed for it. Of those who wait in the same lane with the same priority,
the tenant with the least goes next. Who comes back from a pause starts level with the least served: nobody saves up.

Source: Sheng et al. 2024, "Fairness in Serving Large Language Models", 4.1 (input and output tokens count alike).
"""

from collections import Counter


class FairShare:
    def __init__(self) -> None:
        self._served_tokens: dict[str, int] = {}
        self._num_open: Counter[str] = Counter()

    def served_tokens(self, tenant: str) -> int:
        return self._served_tokens.get(tenant, 0)

    def enter(self, tenant: str) -> None:
        """One more sequence of the tenant is in the engine."""
        if not self._num_open[tenant]:
            least = min((self.served_tokens(other) for other in self._num_open if other != tenant), default=0)
            self._served_tokens[tenant] = max(self.served_tokens(tenant), least)
        self._num_open[tenant] += 1

    def leave(self, tenant: str) -> None:
        self._num_open[tenant] -= 1
        if not self._num_open[tenant]:
            del self._num_open[tenant]
            self._forget_the_absent()

    def charge(self, tenant: str, num_tokens: int) -> None:
        self._served_tokens[tenant] = self.served_tokens(tenant) + num_tokens

    def _forget_the_absent(self) -> None:
        """Those who could only come back level; so there are never more counters than tenants that matter."""
        least = min((self.served_tokens(tenant) for tenant in self._num_open), default=None)
        for tenant in [*self._served_tokens]:
            if tenant not in self._num_open and (least is None or self._served_tokens[tenant] <= least):
                del self._served_tokens[tenant]

    def check_integrity(self, tenants: Counter[str]) -> None:
        """`tenants`: the sequences in the engine by tenant."""
        assert self._num_open == tenants, f"open {self._num_open}, in the engine {tenants}"
        assert tenants or not self._served_tokens, "an idle engine remembers tenants"

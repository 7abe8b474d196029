"""Methods that note what they are asked."""


def spying(method, noted, what=lambda first: first):
    def spy(self, first, *others):
        noted.append(what(first))
        return method(self, first, *others)

    return spy

"""Good content with one place made bad."""

import copy


def changed(content, keys, value):
    """A copy with the place that `keys` lead to replaced; value None removes it."""
    content = copy.deepcopy(content)
    place = content
    for key in keys[:-1]:
        place = place[key]
    if value is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return content

"""Small models of real classes that are taught facts: edits are judged on models that know something."""

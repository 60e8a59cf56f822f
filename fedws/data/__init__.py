"""The data of a node: data sets, their loading, and their partition among workers."""

"""What a node is: the SDK that makes one from a function, the registry that finds it, the lanes that run it."""

"""Converting a module and running it: one interface, one contract, several runtimes."""

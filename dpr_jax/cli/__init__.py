"""The commands: a module each, with its flags; `dpr-jax COMMAND` and the scripts of a checkout start them."""

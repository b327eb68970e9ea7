"""The JSON interface of each room of the page: one router a module."""

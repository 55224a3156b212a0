"""Finds plugins and keeps what they provide, once, at start. No request passes through here."""

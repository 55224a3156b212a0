"""The policy file: read strictly, validated, compiled to a `Plan`, and run. It judges no request."""

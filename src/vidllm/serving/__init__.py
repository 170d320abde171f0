"""Scenes for browsers and OpenAI clients (``vidllm serve``) and for agents (``vidllm mcp``), over one core.

``core``: videos, scenes, jobs. ``decoding``: videos, in separate processes. ``tools``: the functions of a scene.
``web``, ``chat``: HTTP (extra ``serve``). ``agents``: the Model Context Protocol (extra ``mcp``).
"""

"""Agents on the Hugging Face Hub."""

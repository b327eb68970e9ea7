"""The stages that read text and those on TRL's trainers."""

"""gradroute"""
